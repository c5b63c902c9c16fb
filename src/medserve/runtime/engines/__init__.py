"""The engines behind `runtime.engine.Engine`, one file each; imported when one is opened."""
