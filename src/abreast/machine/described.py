"""Machines from their makers' public documents: peak rates, so what a replay on them says is a bound, not a forecast.

Latencies are not in data sheets: they are the order of magnitude that collectives measure on such links, and a claim
that turns on one should calibrate its own.
"""

from .machine import Machine

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "8 x H100 on NVLink",
            devices=8, flops=989e12, bandwidth=3.35e12, memory=80e9, latency=10e-6, link=450e9,
            source="https://www.nvidia.com/en-us/data-center/h100/ (SXM: BF16 dense; NVLink 900 GB/s both ways)",
        ),
        Machine(
            "A100 80GB",
            devices=1, flops=312e12, bandwidth=2.039e12, memory=80e9, latency=10e-6, link=300e9,
            source="https://www.nvidia.com/en-us/data-center/a100/ (SXM: BF16 dense; NVLink 600 GB/s both ways)",
        ),
        Machine(
            "RTX 4090",
            devices=1, flops=165.2e12, bandwidth=1.008e12, memory=24e9, latency=20e-6, link=32e9,
            source="https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf "
            "(FP16 with FP32 accumulate, dense; PCIe 4.0 x16)",
        ),
        Machine(
            "Apple M2 Ultra",
            devices=1, flops=27.2e12, bandwidth=800e9, memory=192e9,
            source="https://support.apple.com/en-us/111835 (Mac Studio 2023); FP32 rate: the Mac Pro page, 2023",
        ),
        Machine(
            "edge board",
            devices=1, flops=153.6e9, bandwidth=17.1e9, memory=8e9, latency=100e-6, link=125e6,
            source="https://www.raspberrypi.com/products/raspberry-pi-5/ (4 Cortex-A76 at 2.4 GHz: two 128-bit FMAs a "
            "cycle, FP32; 32-bit LPDDR4X-4267; gigabit Ethernet)",
        ),
        Machine(
            "512 workers on 1 Gbit/s",
            devices=512, flops=312e12, bandwidth=2.039e12, memory=80e9, latency=100e-6, link=125e6,
            source="workers as the A100 80GB; 1000BASE-T, IEEE 802.3ab",
        ),
    )
}  # fmt: skip
