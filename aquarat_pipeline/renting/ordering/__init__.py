"""What is ordered for whom: steps that wait, what they may count on, and the cheapest offer for the rest."""
