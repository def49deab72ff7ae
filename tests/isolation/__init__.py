"""Nothing holds up anything else: no event, queue, wait or destructor."""
