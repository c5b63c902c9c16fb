"""Rules that stand above every model: allergy, contraindication, dose limit, duplicate, interaction. Knows no model."""
