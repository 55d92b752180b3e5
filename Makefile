# Containers of z4. `make compose_up` needs Docker, docker-compose, the Rust toolchain and a C linker; no image is fetched.
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: image compose_up compose_down compose_purge

## The image z4:local, from scratch around the binaries of this checkout.
image:
	cargo build --release -p z4 -p z4t
	deploy/rootfs.sh
	docker build -t z4:local deploy

## Three hosts, peer1 to peer3; gRPC on 6355, 6455, 6555. peer1 forms a cluster, the others wait to be added.
compose_up: image
	$(COMPOSE) up -d

## Stops them; their volumes stay.
compose_down:
	$(COMPOSE) down

## Stops them and removes their volumes: all tasks are gone.
compose_purge:
	$(COMPOSE) down -v
