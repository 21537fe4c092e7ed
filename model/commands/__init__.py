"""The commands of the model's life, a module each: options, one call, output."""

COMMANDS = {
    "data": "Make a data set of labelled photos: from CIFAR-100, or from a folder of your own.",
    "train": "Train a model on labelled photos, and choose the confidence threshold.",
    "evaluate": "Measure how right a model is on photos whose labels are known.",
    "predict": "Say which vehicle is in each photo, one JSON line a file.",
    "serve": "Serve the model over HTTP, as a SageMaker endpoint does.",
    "image": "Build the container that SageMaker trains and serves in, and push it to ECR when asked.",
    "deploy": "Deploy a model behind a SageMaker endpoint, or update the one that is there.",
    "rollback": "Bring an endpoint back to the model that it served before the last update.",
    "status": "Say what is deployed: which model, since when, how busy, how well, and at what cost.",
    "parameters": "Print the stack's parameters for what was deployed last, as sam deploy takes them.",
}
"""Name and summary, in the order in which a user meets them, so that ``--help`` need not import them."""
