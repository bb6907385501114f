"""Many runs: the search space, the plan, executors, results and their page."""
