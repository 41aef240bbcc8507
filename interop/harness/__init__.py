"""What the official interoperability harnesses ask of an image, both generations of them."""
