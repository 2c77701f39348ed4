"""The audit log: entries written in the transaction of the change that they record."""
