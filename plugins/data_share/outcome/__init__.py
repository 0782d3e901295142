"""How a sync ended: codes, reports, notes and the webhook."""
