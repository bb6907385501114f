"""What a run says while it trains: metrics, throughput, where time went."""
