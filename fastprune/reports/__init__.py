"""Pages for people: figures, pictures, report and model card."""
