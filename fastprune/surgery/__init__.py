"""Surgery: apply masks to models, by zeroing units or by removing them."""
