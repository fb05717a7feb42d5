"""How good predictions are: scores, their intervals, calibration, what few nights allow, tables, the model's card."""
