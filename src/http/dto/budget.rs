use std::borrow::Cow;

use ai4free_ports::budget::{Budget as DomainBudget, BudgetPeriod};
use poem_openapi::{
    Enum, Object,
    registry::{MetaSchema, MetaSchemaRef},
    types::{MaybeUndefined, ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    application::{key_budget::BudgetPatch, usage::BudgetStanding},
    http::{dto::key::invalid, error::ApiError},
};

/// How much may be spent in each window.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `amount_usd`, `window` and `time_zone`")]
pub(in crate::http) struct NewBudget {
    amount_usd: Amount,
    /// Default: `total`.
    window: Option<BudgetWindow>,
    /// Where the day, week or month begins at midnight: a name of the IANA database. Default: `UTC`.
    time_zone: Option<String>,
}

/// Absent members stay. Null is the default of `window` and `time_zone`.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `amount_usd`, `window` and `time_zone`")]
pub(in crate::http) struct PatchBudget {
    #[serde(default)]
    amount_usd: MaybeUndefined<Amount>,
    #[serde(default)]
    window: MaybeUndefined<BudgetWindow>,
    #[serde(default)]
    time_zone: MaybeUndefined<String>,
}

#[derive(Object)]
pub(in crate::http) struct Budget {
    /// The shortest exact decimal.
    amount_usd: String,
    window: BudgetWindow,
    time_zone: String,
}

/// How a budget stands in the window that it is now.
#[derive(Object)]
pub(in crate::http) struct BudgetUsage {
    limit: String,
    /// By requests that have ended.
    settled: String,
    /// At most, by requests that run.
    reserved: String,
    remaining: String,
    window: BudgetWindow,
    /// Unix seconds. Null: never.
    resets_at: Option<i64>,
    time_zone: String,
}

/// `total` never resets, a `week` begins on Monday.
#[derive(Clone, Copy, Enum, Deserialize)]
#[oai(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum BudgetWindow {
    Total,
    Hour,
    Day,
    Week,
    Month,
}

/// An exact decimal: a float would not be.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "expected US dollars as a string like \"5.00\", or as a whole number")]
pub(in crate::http) enum Amount {
    Dollars(u64),
    Decimal(String),
}

impl NewBudget {
    pub(in crate::http) fn into_patch(self) -> Result<BudgetPatch, ApiError> {
        Ok(BudgetPatch {
            amount: Some(self.amount_usd.parse()?),
            period: self.window.map(BudgetWindow::into_domain),
            time_zone: self.time_zone,
        })
    }
}

impl PatchBudget {
    pub(in crate::http) fn into_patch(self) -> Result<BudgetPatch, ApiError> {
        let amount = match self.amount_usd {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => {
                return Err(invalid(AMOUNT, "'budget.amount_usd' can't be null: every budget has one."));
            }
            MaybeUndefined::Value(amount) => Some(amount.parse()?),
        };
        let period = match self.window {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(BudgetPeriod::default()),
            MaybeUndefined::Value(window) => Some(window.into_domain()),
        };
        let time_zone = match self.time_zone {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(DomainBudget::DEFAULT_TIME_ZONE.to_owned()),
            MaybeUndefined::Value(name) => Some(name),
        };
        Ok(BudgetPatch { amount, period, time_zone })
    }
}

impl Budget {
    pub(in crate::http) fn of(budget: &DomainBudget) -> Self {
        Self {
            amount_usd: budget.amount.to_string(),
            window: BudgetWindow::of(budget.period),
            time_zone: budget.time_zone.to_string(),
        }
    }
}

impl BudgetUsage {
    pub(in crate::http) fn of(standing: &BudgetStanding) -> Self {
        Self {
            limit: standing.budget.amount.to_string(),
            settled: standing.settled.to_string(),
            reserved: standing.reserved.to_string(),
            remaining: standing.remaining().to_string(),
            window: BudgetWindow::of(standing.budget.period),
            resets_at: standing.resets_at().map(|at| at.seconds()),
            time_zone: standing.budget.time_zone.to_string(),
        }
    }
}

impl BudgetWindow {
    fn of(period: BudgetPeriod) -> Self {
        match period {
            BudgetPeriod::Total => Self::Total,
            BudgetPeriod::Hour => Self::Hour,
            BudgetPeriod::Day => Self::Day,
            BudgetPeriod::Week => Self::Week,
            BudgetPeriod::Month => Self::Month,
        }
    }

    fn into_domain(self) -> BudgetPeriod {
        match self {
            Self::Total => BudgetPeriod::Total,
            Self::Hour => BudgetPeriod::Hour,
            Self::Day => BudgetPeriod::Day,
            Self::Week => BudgetPeriod::Week,
            Self::Month => BudgetPeriod::Month,
        }
    }
}

const AMOUNT: &str = "budget.amount_usd";

impl Amount {
    fn parse(&self) -> Result<ai4free_ports::money::PicoUsdSum, ApiError> {
        let amount = match self {
            Self::Dollars(dollars) => DomainBudget::parse_amount(&dollars.to_string()),
            Self::Decimal(text) => DomainBudget::parse_amount(text),
        };
        let form =
            "'budget.amount_usd' must be US dollars from 0 to 9000000000, like \"5.00\", with at most 12 decimals.";
        amount.ok_or_else(|| invalid(AMOUNT, form))
    }
}

/// By hand, because a derived union calls itself an object, which neither form is.
impl Type for Amount {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "decimal-or-integer".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let decimal = MetaSchema {
            pattern: Some(r"^[0-9]+(\.[0-9]{1,12})?$".to_owned()),
            example: Some("5.00".into()),
            ..MetaSchema::new("string")
        };
        let inline = |schema| MetaSchemaRef::Inline(Box::new(schema));
        let any_of = vec![inline(decimal), inline(MetaSchema::new_with_format("integer", "int64"))];
        inline(MetaSchema { any_of, ..MetaSchema::ANY })
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromJSON for Amount {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
    }
}

impl ToJSON for Amount {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}
