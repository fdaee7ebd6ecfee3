//! What the documentation says of names: `docs/reference` is generated from code, and committed.

mod admin_api;
mod configuration;
mod metrics;

use std::fmt::Write;

use antiphon::Cli;
use antiphon_testkit::assert_reference;
use clap::{Command, CommandFactory};

/// The first lines of a page.
fn heading(title: &str, introduction: &str) -> String {
    format!("<!-- Generated: `make reference` writes this page. -->\n\n# {title}\n\n{introduction}\n")
}

/// A text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_reference_of_the_command_line_is_that_of_the_binary() {
    let introduction = "What `--help` prints. Wrong usage exits with 2, failure with 1.";
    let mut page = heading("Command line", introduction);
    let mut cli = Cli::command().term_width(100);
    cli.build();
    describe(&mut cli, &mut page);
    assert_reference("command-line.md", &page);
}

fn describe(command: &mut Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
    for subcommand in command.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
        describe(subcommand, page);
    }
}
