"""What ActGuard costs, and what others cost: ``make bench``, or ``python -m benchmarks [--quick] [part …]``.

A part is a module of this package with a function ``main(quick: bool)`` that yields `Figure` and `Curve` objects (see
`benchmarks.figures`); the first line of its docstring is the title of its table. Parts are found by themselves.
"""
