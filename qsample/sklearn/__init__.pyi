from qsample.integrations.sklearn.estimator import BernoulliRBM as BernoulliRBM

__all__: list[str]
