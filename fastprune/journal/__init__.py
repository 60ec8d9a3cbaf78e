"""What a run has computed so far, in files, so that the same run goes on where it was killed."""
