"""From files to batches; knows no model, no loss and no flag."""
