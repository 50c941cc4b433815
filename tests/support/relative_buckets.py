"""T5's relative buckets in integer arithmetic, for tests of biases and of networks."""


def slow_bucket(relative, bidirectional, buckets=32, far=128):
    """T5's bucket in whole numbers: the k-th logarithmic bucket begins at `exact * (far / exact)^(k / rest)`."""
    if bidirectional:
        buckets //= 2
        base, distance = (buckets if relative > 0 else 0), abs(relative)
    else:
        base, distance = 0, max(-relative, 0)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    rest = buckets - exact
    reached = [k for k in range(rest) if distance**rest * exact**k >= exact**rest * far**k]
    return base + exact + max(reached)
