"""The training objective, the LightningModule and its callbacks."""
