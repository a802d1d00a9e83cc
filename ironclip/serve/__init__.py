"""What leaves the house: the service with its page, exported models, the hub card."""
