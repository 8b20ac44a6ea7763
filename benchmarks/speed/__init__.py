"""How fast is what we do, against what the machine can multiply and against what others do?

``python -m benchmarks.speed`` measures, ``python -m benchmarks.speed --table`` prints what was measured as Markdown.
All ratios are speeds, ours over the other's: higher is better. What is compared takes turns in one process, because a
machine's speed drifts.
"""
