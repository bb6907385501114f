"""The fork server of the drills, with all of lm_jax imported.

python -m tests.launch.fork_server
"""

from lm_jax.runs.drills.fork_server import serve
from tests.every_module import import_every_module

if __name__ == "__main__":
    import_every_module()
    serve()
