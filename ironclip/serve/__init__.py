"""Publishing a model: the service with its page, exported files, the hub card."""
