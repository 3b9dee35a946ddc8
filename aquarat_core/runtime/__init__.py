"""The processes of a stage: who they are, what hardware they have, how they stop, and where they may leave files."""
