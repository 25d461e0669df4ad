"""Many of a kind: systems that share their mappings and are rows of ours, as the databases of fifty stores are."""
