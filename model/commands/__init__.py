"""The commands of the model's life, a module each: options, one call, output."""

COMMANDS = {
    "data": "Make a data set of labelled photos: from CIFAR-100, or from a folder of your own.",
    "train": "Train a model on labelled photos, and choose the confidence threshold.",
    "evaluate": "Measure the accuracy of a model on labelled photos.",
    "predict": "Classify photos, one JSON line per file.",
    "serve": "Serve the model over HTTP, as a SageMaker endpoint does.",
    "image": "Build the container in which SageMaker trains and serves, and push it to ECR with --push.",
    "deploy": "Deploy a model behind a SageMaker endpoint, or update the existing endpoint.",
    "rollback": "Roll an endpoint back to the model that it served before the last update.",
    "status": "Print what is deployed: the model, since when, its load, its alarms and its cost.",
    "parameters": "Print the stack parameters for the latest deployment, in the form of sam deploy.",
}
"""Name and summary, in the order in which a user meets them, so that ``--help`` need not import them."""
