# `make run` and `make test` are all a newcomer needs; they install what is missing (on Debian and
# Ubuntu), build, and go. Meson does the building; this file only knows the names.

BUILD = build
JOBS = $(shell nproc)
CHECKOUT = $(CURDIR)

.PHONY: all build run test sim check soak asan tsan clang fuzz differential bench bench-peers bench-disturb format clean

all: build

build:
	@tools/install-packages build
	@tools/configure $(BUILD)
	@ninja -C $(BUILD) -j $(JOBS)

run:
	@tools/install-packages build run
	@tools/configure $(BUILD)
	@ninja -C $(BUILD) -j $(JOBS) --quiet
	@tools/run

# Unit and integration tests, 20 crash rounds, 1,000 simulation seeds, 5 s for each fuzzer.
test:
	@tools/install-packages build run test
	@tools/test unit integration crash simulation fuzz

# One seed of the simulation again, event by event: make sim SEED=42.
SEED = 1
sim:
	@tools/configure $(BUILD)
	@ninja -C $(BUILD) --quiet tests/simulation/simulate
	@$(BUILD)/tests/simulation/simulate --seed $(SEED) --count 1 --verbose

# Static: format, analysis, direction of includes, banned calls, what each folder must have.
check:
	@tools/install-packages build check
	@tools/check

# For a night: 100,000 seeds, 500 crash rounds, 10 minutes for each fuzzer.
soak:
	@tools/install-packages build run test
	@tools/test --soak unit integration crash simulation fuzz

asan:
	@tools/install-packages build test
	@tools/test --build build-asan --variant asan unit simulation integration

tsan:
	@tools/install-packages build test
	@tools/test --build build-tsan --variant tsan unit integration

clang:
	@tools/install-packages build check
	@tools/configure build-clang clang
	@ninja -C build-clang -j $(JOBS)

fuzz:
	@tools/install-packages build test
	@tools/test fuzz

# 300 random scripts done by sluice and by the distribution's RabbitMQ, compared step by step; skipped
# where that is not installed (tools/install-packages peers).
differential: build
	@tests/peers/differential.py

bench: build
	@bench/run

bench-peers: build
	@tools/install-packages peers
	@bench/peers

bench-disturb: build
	@bench/disturb

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz
