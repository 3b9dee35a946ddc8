"""Hosts rented from providers: what they offer and cost, renting them, and ending them, whatever dies meanwhile.

`clouds/` speaks with providers: one protocol, an adapter for each, and no policy. `rental.py` and `ledger.py` record
what was ordered and what became of it. `ordering/` decides what is ordered for runs that wait, `config.py` and
`budget.py` whether it may be. `keeper.py` brings every rental from its order to the proof that it is gone, by the acts
in `steps.py`; `managed/` makes hosts of the inventory out of what was rented. `reaper.py` ends what has outlived the
end in its name, without any of these.
"""
