"""What models exist: cards (data), families (code) and where their weights lie."""
