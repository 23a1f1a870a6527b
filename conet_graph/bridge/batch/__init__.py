"""Files for one image that take any batch: how values hold images, and what operators do with them."""
