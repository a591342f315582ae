"""One file a method, named as users name it."""
