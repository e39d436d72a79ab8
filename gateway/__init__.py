"""The read gateway: REST answers from rollups, for those who may see them."""
