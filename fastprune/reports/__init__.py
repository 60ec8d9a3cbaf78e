"""Reports: figures, plots, HTML report and model card."""
