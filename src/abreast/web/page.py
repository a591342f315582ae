def page(found):
    return "<!doctype html>"
