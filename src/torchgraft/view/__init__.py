"""What a plan and a report look like on a terminal."""
