"""Our fast paths against plain references: equality first, then the ratio of processor times."""
