"""The processes of a stage: their ranks, their hardware, how they stop, and where they may leave files."""
