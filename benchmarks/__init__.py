"""Programs that measure the results which the documents quote."""
