"""What perceived depth, matches, poses, boxes and answers are worth beside the true ones.

One rule holds in all of it: what was asked, or is there, and was not answered counts as missed, and a missed value
is as wrong as a value can be. So no number that has a direction gets better when an answer is refused. The largest
errors are in docs/metrics.md; numbers over the answered ones alone (`…_answered`) have no direction.
"""
