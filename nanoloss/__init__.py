"""What the scripts share. Nothing in here imports a script.

Every script imports this package before torch, for here is said how the threads of OpenMP wait.
"""
import os

# At the end of each parallel loop a thread waits for the others, by default by spinning for 300,000
# turns, about 3 ms, even when the others wait for the very core that it spins on, as they do beside
# another training or a service. With fewer turns it sleeps sooner, but has to be woken more often
# when it is alone. libgomp, which torch brings, reads this when it is loaded.
SPINS = 2000
WAITING = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME'  # the last is of Intel's OpenMP

if not any(name in os.environ for name in WAITING):  # else the user has chosen
    os.environ['GOMP_SPINCOUNT'] = str(SPINS)
