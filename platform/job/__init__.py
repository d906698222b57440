"""What a run is told: the job file, the owner's file, and where things lie."""
