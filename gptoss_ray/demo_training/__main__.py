"""`python -m gptoss_ray.demo_training` trains the demo model."""

from gptoss_ray.demo_training.train import main

main()
