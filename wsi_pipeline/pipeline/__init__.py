"""The stages: each ``run(config)``, a generator of events; ``wsi_pipeline.verbs`` lists them."""
