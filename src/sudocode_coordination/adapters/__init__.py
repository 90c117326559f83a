"""The ports of the core to the real world: libp2p, git, disk, clock. `ports.py` says what each must do."""
