"""Opening, saving and uploading models."""
