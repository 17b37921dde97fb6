//! `rabbitmqctl eval`: no Erlang, but the expressions that client test suites use.

mod functions;

use std::collections::HashMap;

use super::erlang::{Term, parse};
use super::{Outcome, Shim, Stop, exit};
use functions::Function;

/// Evaluates the argument and prints the last value.
pub(crate) fn run(shim: &Shim) -> Outcome {
    let expressions = parse(shim.argument(0)).map_err(|error| {
        let text = format!("cannot be evaluated: {error}\n{}", supported());
        Stop::error(exit::USAGE, &text)
    })?;
    let mut variables = HashMap::new();
    let mut last = Term::atom("ok");
    for expression in &expressions {
        last = evaluate(shim, expression, &mut variables)?;
    }
    println!("{last}");
    Ok(())
}

type Variables = HashMap<String, Term>;

fn evaluate(shim: &Shim, expression: &Term, variables: &mut Variables) -> Result<Term, Stop> {
    let mut all = |items: &[Term]| -> Result<Vec<Term>, Stop> {
        items
            .iter()
            .map(|item| evaluate(shim, item, variables))
            .collect()
    };
    match expression {
        Term::Tuple(items) => Ok(Term::Tuple(all(items)?)),
        Term::List(items) => Ok(Term::List(all(items)?)),
        Term::Call(module, function, arguments) => {
            let arguments = all(arguments)?;
            call(shim, module, function, &arguments)
        }
        Term::Match(pattern, value) => {
            let value = evaluate(shim, value, variables)?;
            if bind(pattern, &value, variables) {
                return Ok(value);
            }
            Err(Stop::error(
                exit::UNAVAILABLE,
                &format!("{{:badmatch, {value}}}"),
            ))
        }
        Term::Compare(equal, left, right) => {
            let same = evaluate(shim, left, variables)? == evaluate(shim, right, variables)?;
            Ok(Term::flag(same == *equal))
        }
        Term::Variable(name) => variables
            .get(name)
            .cloned()
            .ok_or_else(|| Stop::error(exit::UNAVAILABLE, &format!("{{:unbound_var, :{name}}}"))),
        plain => Ok(plain.clone()),
    }
}

/// Matches `value` against `pattern`, and gives names to its parts.
fn bind(pattern: &Term, value: &Term, variables: &mut Variables) -> bool {
    match (pattern, value) {
        (Term::Variable(name), _) if name == "_" => true,
        (Term::Variable(name), _) => match variables.get(name) {
            Some(bound) => bound == value,
            None => variables.insert(name.clone(), value.clone()).is_none(),
        },
        (Term::Tuple(a), Term::Tuple(b)) | (Term::List(a), Term::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bind(a, b, variables))
        }
        (a, b) => a == b,
    }
}

fn call(shim: &Shim, module: &str, name: &str, arguments: &[Term]) -> Result<Term, Stop> {
    if let Some(function) = Function::find(module, name, arguments.len()) {
        return (function.run)(shim, arguments);
    }
    let module = if module.is_empty() {
        "erl_eval"
    } else {
        module
    };
    let arity = arguments.len();
    let text = format!(
        "{{:undef, [{{:{module}, :{name}, {arity}, []}}]}}\n{}",
        supported()
    );
    Err(Stop::error(exit::UNAVAILABLE, &text))
}

/// What there is, for who asked for something else.
fn supported() -> String {
    let functions: String = functions::ALL
        .iter()
        .map(|function| format!("\n  {function}"))
        .collect();
    format!(
        "There is no Erlang in this broker. Here `eval` knows constants, variables, `=`, `==`, \
         `/=`, `=:=`, `=/=` and calls of{functions}"
    )
}
