"""How good generated exams and predictions are: figures with intervals, tables and pages."""
