"""Damaged and hostile files for `./run bench attack`: how they are made, and which code reads them."""
