"""Damaged and hostile files for `./run bench attack`: how they are made, and what reads them."""
