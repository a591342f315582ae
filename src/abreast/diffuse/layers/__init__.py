"""The network itself in parts: stages that run at once, and features that are kept from step to step."""
