"""XLA's options for programs that are compiled once and run a few times: it need not try hard."""

from importlib.metadata import version

# jaxlib 0.11.2 and 0.12 refuse the second as unknown.
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0} | (
    {"xla_cpu_use_fusion_emitters": False} if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11) else {}
)
