"""What a report supports, part by part, with the sentences that say why."""
